#if canImport(SwiftUI)
    import Foundation
    import MLXSDKit

    #if canImport(os)
        import os
    #endif

    /// What an issue about speed, memory or wrong numbers needs to say.
    enum DeviceReport {
        /// The bytes that this process holds, as the system counts them when it ends apps.
        static var memory: UInt64 {
            var info = task_vm_info_data_t()
            var count = mach_msg_type_number_t(MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<natural_t>.size)
            let result = withUnsafeMutablePointer(to: &info) { pointer in
                pointer.withMemoryRebound(to: integer_t.self, capacity: Int(count)) {
                    task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), $0, &count)
                }
            }
            return result == KERN_SUCCESS ? info.phys_footprint : 0
        }

        /// The bytes that this process may still take, where the system tells.
        static var available: UInt64? {
            #if os(iOS)
                return UInt64(os_proc_available_memory())
            #else
                return nil
            #endif
        }

        /// The name of the machine, for example "iPhone16,1".
        static var machine: String {
            #if os(macOS)
                let key = "hw.model"
            #else
                let key = "hw.machine"
            #endif
            var size = 0
            sysctlbyname(key, nil, &size, nil, 0)
            var name = [UInt8](repeating: 0, count: size)
            sysctlbyname(key, &name, &size, nil, 0)
            return String(decoding: name.prefix { $0 != 0 }, as: UTF8.self)
        }

        /// Returns lines about the machine, the model set and the last picture.
        static func text(info: ModelSetInfo?, picture: GeneratedPicture?, peak: UInt64, load: Double?, check: String?)
            -> String
        {
            var lines = ["\(machine), \(ProcessInfo.processInfo.operatingSystemVersionString)"]
            if let info {
                let packages = info.packages.keys.sorted().joined(separator: ", ")
                lines.append("\(info.model.name) \(info.model.hash), \(info.madeBy ?? "")")
                lines.append("\(packages); \(info.options.dtype ?? ""), \(info.options.attention ?? "")")
            }
            lines.append("memory \(megabytes(memory)), highest \(megabytes(peak))")
            if let available { lines.append("still free for this app: \(megabytes(available))") }
            if let load { lines.append(String(format: "loaded in %.1f s", load)) }
            if let picture {
                let seconds = picture.evaluationSeconds
                let median = seconds.sorted()[seconds.count / 2]
                lines.append(
                    "\(picture.image.width) x \(picture.image.height), seed \(picture.seed), "
                        + "\(picture.evaluations) evaluations, \(picture.fullEvaluations) of them full")
                lines.append(
                    String(
                        format: "prompt %.2f s, evaluation %.2f s (first %.2f s), picture %.2f s",
                        picture.encodeSeconds,
                        median, seconds.first ?? 0, picture.decodeSeconds))
            }
            if let check { lines.append(check) }
            return lines.joined(separator: "\n")
        }

        private static func megabytes(_ bytes: UInt64) -> String {
            String(format: "%.0f MB", Double(bytes) / 1e6)
        }
    }
#endif
